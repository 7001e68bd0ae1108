"""Data sets of CLIMB in miniature, in the layout in which they are published.

`LAYOUTS[name]` is {path: text or bytes of a table, None for a medium, or a function that writes the
file}.
"""

from __future__ import annotations

import io
import json
import os
import pathlib
from collections.abc import Callable

import numpy as np
from PIL import Image

from tests.helpers.dicom import make_dicom
from tests.helpers.metaimage import make_metaimage

CHEXPERT = (
    "No Finding,Enlarged Cardiomediastinum,Cardiomegaly,Lung Opacity,Lung Lesion,Edema,"
    "Consolidation,Pneumonia,Atelectasis,Pneumothorax,Pleural Effusion,Pleural Other,Fracture,"
    "Support Devices"
)
_NOTHING = ",".join([""] * 14)
_NORMAL = "1.0" + "," * 13
_MIXED = ",,1.0,-1.0,,0.0,,,,,1.0,,,"  # cardiomegaly and effusion; an opacity is uncertain


def _side(side: str) -> Callable[[str], None]:
    return lambda path: make_dicom(path, np.full((48, 48), 9, np.uint8), ImageLaterality=side)


_LEADS = ["I", "II", "III", "aVR", "aVL", "aVF", "V1", "V2", "V3", "V4", "V5", "V6"]


def _record(codes: str | None, ending: str = ".mat") -> Callable[[str], None]:
    """A WFDB record of 10 s at 500 Hz, header and signals; codes: of its line #Dx, None for no such
    line.
    """

    def write(path: str) -> None:
        stem = path.removesuffix(".hea")
        name = os.path.basename(stem)
        offset = 24 if ending == ".mat" else 0
        lines = [
            f"{name}{ending} 16{f'+{offset}' if offset else ''} 1000/mV 16 0 0 0 0 {lead}"
            for lead in _LEADS
        ]
        comments = [] if codes is None else ["#Age: 61", f"#Dx: {codes}"]
        with open(path, "w", encoding="ascii") as file:
            file.write("\n".join([f"{name} 12 500 5000", *lines, *comments]) + "\n")
        wave = 500 * np.sin(np.arange(5000)[:, None] / 40 + np.arange(12))
        with open(stem + ending, "wb") as file:
            file.write(bytes(offset) + wave.astype("<i2").tobytes())

    return write


def _chest(slices: int, upward: bool) -> Callable[[str], None]:
    """A CT of 8 x 8 pixels, 2 mm between slices; slice s from below holds s - 600 HU."""

    def write(path: str) -> None:
        levels = np.arange(slices, dtype=np.int16) - np.int16(600)
        values = np.tile(levels if upward else levels[::-1], (8, 8, 1))
        make_metaimage(
            pathlib.Path(path),
            values,
            Offset=f"-4 -4 {-100 if upward else -100 + 2 * (slices - 1)}",
            ElementSpacing="1 1 2",
            TransformMatrix=f"1 0 0 0 1 0 0 0 {1 if upward else -1}",
        )

    return write


def _section(mask: bool) -> Callable[[str], None]:
    """A region of 1,920 x 1,024 pixels, of two patches: tumor but for a rim outside of the region,
    and stroma, lymphocytes and blood, none of them over a half.
    """
    codes = np.ones((1024, 1920), np.uint8)
    codes[:, :100] = 0
    codes[:400, 1000:], codes[400:700, 1000:], codes[700:, 1000:] = 2, 3, 6
    picture = np.repeat((codes * 30)[..., None], 3, axis=-1)
    return lambda path: Image.fromarray(codes if mask else picture).save(path)


def _header_alone(path: str) -> None:
    _record("426783006")(path)
    os.remove(path.removesuffix(".hea") + ".mat")


_CARTS = "subject_id,study_id,cart_id,ecg_time," + ",".join(f"report_{i}" for i in range(18))
_P1000 = "files/p1000/p10000032/s4068923"


def _printed(study: int, *statements: str) -> str:
    """A line of machine_measurements.csv."""
    cells = [*(f'"{one}"' for one in statements), *[""] * (18 - len(statements))]
    where = f"10000032,4068923{study},6848296,2180-07-23 08:44:00"
    return ",".join([where, *cells, "0.005-150 Hz,60 Hz notch,659,40,128,170,258,518,81,77,29999"])


_PTB = "ecg_id,patient_id,scp_codes,strat_fold,filename_lr,filename_hr,age,sex\n"
_HAM = "image,MEL,NV,BCC,AKIEC,BKL,DF,VASC\n"
_CBIS = "patient_id,left or right breast,image view,assessment,pathology,image file path\n"
_KITS = [
    {"case_id": "case_00000", "malignant": True},
    {"case_id": "case_00001", "malignant": False},
    {"case_id": "case_00002", "malignant": None},
]
_VINDR = "Aortic enlargement,COPD,Lung tumor,Pneumonia,Tuberculosis"
_STUDY = "study_id,series_id,image_id,laterality,breast_birads,breast_density,split\n"

_CT_ICH = "computed-tomography-images-for-intracranial-hemorrhage-detection-and-segmentation-1.0.0"
_COVIDX = "id,LUSS,source,probe,class,class_on_website,type"


def _phases(*runs: tuple[int, str]) -> str:
    """A phase table of Cholec80: (frames, phase) in turn, a line for every frame."""
    phases = [phase for frames, phase in runs for _ in range(frames)]
    lines = (f"{frame}\t{phase}\n" for frame, phase in enumerate(phases))
    return "Frame\tPhase\n" + "".join(lines)


LAYOUTS: dict[str, dict[str, str | bytes | Callable[[str], None] | None]] = {
    "ptb-xl": {
        "ptbxl_database.csv": f"{_PTB}"
        "1,15709.0,\"{'NORM': 100.0, 'SR': 0.0}\",3,records100/00000/1_lr,"
        "records500/00000/1_hr,56.0,1\n"
        "2,13243.0,\"{'IMI': 50.0, 'STD_': 0.0, 'SR': 0.0}\",10,,records500/00000/2_hr,300.0,0\n"
        "3,20372.0,\"{'NEW': 0.0}\",1,,records500/00000/3_hr\n"
        "4,20372.0,NORM,1,,records500/00000/4_hr\n"
        "5,13243.0,\"{'AFIB': 0.0}\",9,,records500/00000/5_hr\n",
        "records500/00000/1_hr.hea": _record(None, ".dat"),
        "records500/00000/2_hr.hea": _record(None, ".dat"),
        "records500/00000/5_hr.hea": _record(None, ".dat"),
    },
    "mimic-iv-ecg": {
        "record_list.csv": "subject_id,study_id,file_name,ecg_time,path\n"
        + "".join(
            f"10000032,4068923{i},4068923{i},2180-07-23 08:44:00,{_P1000}{i}/4068923{i}\n"
            for i in range(7)
        ),
        "machine_measurements.csv": f"{_CARTS},bandwidth,filtering,rr_interval,p_onset,p_end,"
        "qrs_onset,qrs_end,t_end,p_axis,qrs_axis,t_axis\n"
        + "\n".join(
            (
                _printed(0, "Sinus rhythm", "Normal ECG"),
                _printed(1, "Sinus bradycardia.", "Inferior infarct - age undetermined"),
                _printed(2, "ATRIAL FIBRILLATION", "*** UNHEARD OF ***", "Abnormal ECG"),
                _printed(3, "Sinus rhythm", "Possible anterior infarct - age undetermined"),
                _printed(4, "Sinus rhythm", "Normal ECG"),
                _printed(5),
            )
        ),
        f"{_P1000}0/40689230.hea": _record(None, ".dat"),
        f"{_P1000}1/40689231.hea": _record(None, ".dat"),
        f"{_P1000}4/40689234.hea": None,
    },
    "chapman-shaoxing": {"WFDBRecords/01/010/JS00001.hea": _record("164889003,39732003,164917005")},
    "georgia": {
        "g1/E00001.hea": _record("426783006"),
        "g1/E00002.hea": _record(None),
        "g1/E00003.hea": _header_alone,
        "g1/E00004.hea": _record("426783006,123"),
    },
    "cpsc2018": {
        "cpsc_2018/g1/A0001.hea": _record("59118001"),
        "cpsc_2018_extra/g1/Q0001.hea": _record("59118001"),  # of another source
    },
    "mimic-cxr": {
        "mimic-cxr-2.0.0-split.csv": "dicom_id,study_id,subject_id,split\n"
        "d1,50000001,10000032,train\nd2,50000001,10000032,train\nd3,50000002,10000764,validate\n"
        "d4,50000003,10000898,test\nd5,50000004,10000935,train\nd6,50000005,10000980,train\n",
        "mimic-cxr-2.0.0-chexpert.csv": "subject_id,study_id,"
        + ",".join(sorted(CHEXPERT.split(",")))
        + "\n10000032,50000001,,1.0,,,,,,,,1.0,,,,-1.0\n10000764,50000002,,,,,,,,,1.0,,,,,\n"
        "10000898,50000003,1.0,,,,,,,,,,,,,\n10000935,50000004,,,,,,,,,,,,,,\n",
        "files/p10/p10000032/s50000001/d1.jpg": None,
        "files/p10/p10000032/s50000001/d2.jpg": None,
        "files/p10/p10000764/s50000002/d3.jpg": None,
        "files/p10/p10000898/s50000003/d4.jpg": None,
    },
    "chexpert": {
        "CheXpert-v1.0-small/train.csv": f"Path,Sex,Age,Frontal/Lateral,AP/PA,{CHEXPERT}\n"
        f"CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg,F,60,Frontal,AP,{_MIXED}\n"
        "CheXpert-v1.0-small/train/patient00001/study2/view1_lateral.jpg,F,61,Lateral,,"
        f"{_NORMAL}\n"
        "CheXpert-v1.0-small/train/patient00002/study1/view1_frontal.jpg,M,50,Frontal,PA,"
        f"{_NOTHING[1:]}\n",
        "CheXpert-v1.0-small/valid.csv": f"Path,Sex,Age,Frontal/Lateral,AP/PA,{CHEXPERT}\n"
        "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg,M,73,Frontal,AP,"
        f"{_NORMAL}\n",
        "CheXpert-v1.0-small/train/patient00001/study1/view1_frontal.jpg": None,
        "CheXpert-v1.0-small/train/patient00001/study2/view1_lateral.jpg": None,
        "CheXpert-v1.0-small/valid/patient64541/study1/view1_frontal.jpg": None,
    },
    "vindr-cxr": {
        "annotations/image_labels_train.csv": f"image_id,rad_id,{_VINDR},"
        "Other diseases,No finding\n"
        "b,R1,0,0,0,1,0,0,0\na,R1,0,0,1,0,0,0,0\na,R2,1,0,1,1,0,0,0\na,R3,0,0,0,1,0,0,0\n"
        "b,R2,0,0,0,0,0,0,1\nb,R3,0,0,0,0,0,0,1\nc,R1,0,1,0,0,0,0,0\nc,R2,0,0,1,0,0,0,0\n"
        "c,R3,0,0,0,0,0,1,0\n",
        "annotations/image_labels_test.csv": f"image_id,{_VINDR},Other disease,No finding\n"
        "t,0,0,0,0,1,1,0\n",
        "train/a.dicom": _side(""),
        "train/b.dicom": _side(""),
        "train/c.dicom": _side(""),
        "test/t.dicom": _side(""),
    },
    "coronahack": {
        "Chest_xray_Corona_Metadata.csv": ",X_ray_image_name,Label,Dataset_type,"
        "Label_2_Virus_category,Label_1_Virus_category\n"
        "0,IM-0128-0001.jpeg,Normal,TRAIN,,\n1,person1_bacteria_1.jpeg,Pnemonia,TRAIN,,bacteria\n"
        "2,person1_virus_6.jpeg,Pnemonia,TEST,,Virus\n3,smoke.jpg,Pnemonia,TRAIN,,Stress-Smoking\n",
        "Coronahack-Chest-XRay-Dataset/Coronahack-Chest-XRay-Dataset/train/IM-0128-0001.jpeg": None,
        "Coronahack-Chest-XRay-Dataset/Coronahack-Chest-XRay-Dataset/train/"
        "person1_bacteria_1.jpeg": None,
        "Coronahack-Chest-XRay-Dataset/Coronahack-Chest-XRay-Dataset/test/"
        "person1_virus_6.jpeg": None,
    },
    "covid-19": {
        "NonAugmentedTrain/BacterialPneumonia/person3_bacteria_10.jpeg": None,
        "NonAugmentedTrain/COVID-19/covid1.png": None,
        "TrainData/COVID-19/covid1_aug.png": None,
        "ValData/Normal/NORMAL2-IM-0501-0001.jpeg": None,
        "ValData/ViralPneumonia/person9_virus_4.jpeg": None,
    },
    "vindr-mammo": {
        "breast-level_annotations.csv": f"{_STUDY}s1,e1,i1,L,BI-RADS 4,DENSITY C,training\n"
        "s1,e1,i2,R,BI-RADS 1,DENSITY C,training\ns2,e2,i3,L,BI-RADS 2,DENSITY B,test\n"
        "s3,e3,i4,L,,DENSITY B,training\n",
        "finding_annotations.csv": "image_id,finding_categories,finding_birads,xmin,ymin,"
        "xmax,ymax\n"
        "i1,['Mass'],BI-RADS 4,10,12,30,40.5\ni1,['Mass'],BI-RADS 3,1,1,9,9\n"
        "i2,['No Finding'],,,,,\n",
        "images/s1/i1.dicom": _side("L"),
        "images/s1/i2.dicom": _side("R"),
        "images/s2/i3.dicom": _side("L"),
        "images/s3/i4.dicom": _side("L"),
    },
    "cbis-ddsm": {
        "mass_case_description_train_set.csv": f"{_CBIS}"
        "P_00001,LEFT,CC,4,MALIGNANT,Mass-Training_P_00001_LEFT_CC/1.2/1.3/000000.dcm\n"
        "P_00001,LEFT,CC,5,MALIGNANT,Mass-Training_P_00001_LEFT_CC/1.2/1.3/000000.dcm\n"
        "P_00002,RIGHT,CC,0,BENIGN,Mass-Training_P_00002_RIGHT_CC/1.2/1.3/000000.dcm\n"
        "P_00003,RIGHT,CC,3,BENIGN,Mass-Training_P_00003_RIGHT_CC/1.2/1.3/000000.dcm\n",
        "mass_case_description_test_set.csv": _CBIS,
        "calc_case_description_train_set.csv": _CBIS,
        "calc_case_description_test_set.csv": f"{_CBIS}"
        "P_00001,LEFT,MLO,2,BENIGN,Calc-Test_P_00001_LEFT_MLO/1.2/1.3/000000.dcm\n",
        "metadata.csv": "Series UID,Collection,Subject ID,Study UID,File Location\n"
        "1.3,CBIS-DDSM,Mass-Training_P_00001_LEFT_CC,1.2,"
        "./CBIS-DDSM/Mass-Training_P_00001_LEFT_CC/07-20-2016-NA-3/1.0-full-4\n"
        "1.3,CBIS-DDSM,Calc-Test_P_00001_LEFT_MLO,1.2,"
        ".\\CBIS-DDSM\\Calc-Test_P_00001_LEFT_MLO\\07-20-2016-NA-3\\1.0-full-5\n",
        "CBIS-DDSM/Mass-Training_P_00001_LEFT_CC/07-20-2016-NA-3/1.0-full-4/1-1.dcm": _side("L"),
        "CBIS-DDSM/Calc-Test_P_00001_LEFT_MLO/07-20-2016-NA-3/1.0-full-5/1-1.dcm": _side("L"),
    },
    "cmmd": {
        "CMMD_clinicaldata_revision.csv": "ID1,LeftRight,Age,number,abnormality,classification\n"
        "D1-0001,R,44,2,calcification,Benign\nD1-0001,L,44,2,mass,Malignant\n"
        "D2-0002,L,50,2,mass,Malignant\n",
        "manifest-1/CMMD/D1-0001/07-18-2010-NA-NA-7/1.0-NA-7/1-1.dcm": _side("R"),
        "manifest-1/CMMD/D1-0001/07-18-2010-NA-NA-7/1.0-NA-7/1-2.dcm": _side("R"),
        "manifest-1/CMMD/D1-0001/07-18-2010-NA-NA-7/1.0-NA-7/1-3.dcm": _side("L"),
        "manifest-1/CMMD/D1-0001/07-18-2010-NA-NA-7/1.0-NA-7/1-4.dcm": _side(""),
    },
    "isic-2020": {
        "ISIC_2020_Training_GroundTruth.csv": "image_name,patient_id,sex,age_approx,"
        "anatom_site_general_challenge,diagnosis,benign_malignant,target\n"
        "ISIC_1,IP_1,male,45,head/neck,unknown,benign,0\n"
        "ISIC_2,IP_1,male,45,torso,melanoma,malignant,1\n"
        "ISIC_3,IP_2,male,45,head/neck,unknown,benign,0\n",
        "ISIC_2020_Training_Duplicates.csv": "image_name_1,image_name_2\nISIC_1,ISIC_3\n",
        "train/ISIC_1.jpg": None,
        "train/ISIC_2.jpg": None,
        "train/ISIC_3.jpg": None,
    },
    "ham10000": {
        "ISIC2018_Task3_Training_GroundTruth/ISIC2018_Task3_Training_GroundTruth.csv": f"{_HAM}"
        "ISIC_1,1.0,0.0,0.0,0.0,0.0,0.0,0.0\nISIC_2,0.0,0.0,0.0,0.0,1.0,0.0,0.0\n"
        "ISIC_3,0.0,0.0,0.0,0.0,0.0,0.0,1.0\n",
        "ISIC2018_Task3_Training_LesionGroupings.csv": "image,lesion_id,diagnosis_confirm_type\n"
        "ISIC_1,HAM_1,histopathology\nISIC_2,HAM_1,follow-up\nISIC_3,HAM_2,follow-up\n",
        "ISIC2018_Task3_Training_Input/ISIC_1.jpg": None,
        "ISIC2018_Task3_Training_Input/ISIC_2.jpg": None,
        "ISIC2018_Task3_Training_Input/ISIC_3.jpg": None,
    },
    "pad-ufes-20": {
        "metadata.csv": "patient_id,lesion_id,diagnostic,itch,img_id,biopsed\n"
        "PAT_1,11,ACK,True,PAT_1_11_5.png,False\nPAT_2,12,NEV,False,PAT_2_12_6.png,False\n",
        "images/imgs_part_1/PAT_1_11_5.png": None,
        "images/imgs_part_2/PAT_2_12_6.png": None,
    },
    "messidor-2": {
        "messidor_data.csv": "image_id,adjudicated_dr_grade,adjudicated_dme,adjudicated_gradable\n"
        "20051020_43808_0100_PP.png,0,0,1\nim004832.jpg,4,1,1\nIM004833.jpg,,,0\n",
        "messidor-2.csv": "left;right\n20051020_43808_0100_PP.png;IM004832.JPG\n",
        "IMAGES/20051020_43808_0100_PP.png": None,
        "IMAGES/IM004832.JPG": None,
        "IMAGES/IM004833.JPG": None,
    },
    "aptos2019": {
        "train.csv": "id_code,diagnosis\n000c,2\n001a,0\n",
        "train_images/000c.png": None,
        "train_images/001a.png": None,
        "test.csv": "id_code\n0005\n",
        "test_images/0005.png": None,
    },
    "jichi": {
        "list.csv": "Image,Davis_grading_of_concatenated_figures,Davis_grading_of_one_figure\n"
        "1_1_R.jpg,pdr,sdr\n1_2_L.jpg,pdr,pdr\n2_1_R.jpg,ndr,ndr\n",
        "1_1_R.jpg": None,
        "1_2_L.jpg": None,
        "2_1_R.jpg": None,
    },
    "rspect": {
        "train.csv": "StudyInstanceUID,SeriesInstanceUID,SOPInstanceUID,pe_present_on_image,"
        "negative_exam_for_pe,chronic_pe,acute_and_chronic_pe\n"
        "1.1,1.2,1.3,0,0,1,0\n1.1,1.2,1.4,1,0,1,0\n2.1,2.2,2.3,1,0,0,1\n",
        "train/1.1/1.2/1.3.dcm": _side(""),
        "train/1.1/1.2/1.4.dcm": _side(""),
        "train/2.1/2.2/2.3.dcm": _side(""),
    },
    "inspect": {
        "Final_Impressions_labels.csv": "impression_id,pe_positive,pe_acute,pe_subsegmentalonly\n"
        "100,0,0,0\n101,1,1,0\n102,1,1,1\n103,1,0,0\n",
        "study_mapping.csv": "impression_id,image_id,person_id\n100,PE1.nii.gz,7\n"
        "101,PE2.nii.gz,8\n"
        "102,PE3.nii.gz,9\n103,PE4.nii.gz,7\n",
        "splits.csv": "impression_id,split\n100,train\n101,valid\n102,test\n103,train\n",
        "CTPA/PE1.nii.gz": None,
        "CTPA/PE2.nii.gz": None,
        "CTPA/PE3.nii.gz": None,
        "CTPA/PE4.nii.gz": None,
    },
    "lndb": {
        "trainset_csv/trainCTs.csv": "LNDbID\n1\n2\n3\n",
        "trainset_csv/trainNodules.csv": "LNDbID,RadID,FindingID,x,y,z,Nodule,Volume,Text\n"
        "1,1,1,0,0,-90,1,14.1,\n"  # slice 5, under 3 mm
        "1,2,1,0,0,-90,0,,\n"
        "1,1,2,0,0,-40,1,200.5,\n"  # slice 30
        "2,1,1,0,0,-98,0,,\n",
        "data0/LNDb-0001.mhd": _chest(40, upward=True),
        "data0/LNDb-0002.mhd": _chest(10, upward=False),
        "data5/LNDb-0004.mhd": _chest(10, upward=True),  # of the test, without labels
    },
    "kits23": {
        "dataset/kits23.json": json.dumps(_KITS),
        "dataset/case_00000/imaging.nii.gz": None,
        "dataset/case_00001/imaging.nii.gz": None,
        "dataset/case_00002/imaging.nii.gz": None,
    },
    "hemorrhage": {
        f"{_CT_ICH}/hemorrhage_diagnosis.csv": "PatientNumber,SliceNumber,Intraventricular,"
        "Intraparenchymal,Subarachnoid,Epidural,Subdural,No_Hemorrhage,Fracture_Yes_No\n"
        "49,14,0,1,0,0,0,0,0\n49,15,0,0,0,0,0,1,0\n",
        f"{_CT_ICH}/Patients_CT/049/brain/14.jpg": None,
        f"{_CT_ICH}/Patients_CT/049/brain/14_HGE_Seg.jpg": None,
        f"{_CT_ICH}/Patients_CT/049/brain/15.jpg": None,
        f"{_CT_ICH}/Patients_CT/049/bone/14.jpg": None,
    },
    "echonet-dynamic": {
        "EchoNet-Dynamic/FileList.csv": "FileName,EF,ESV,EDV,FrameHeight,FrameWidth,FPS,"
        "NumberOfFrames,Split\n0X1,40.0,60,100,112,112,50,174,TRAIN\n"
        "0X2.avi,40.5,60,101,112,112,50,174,VAL\n0X3,50.0,50,100,112,112,50,174,TEST\n"
        "0X4,,50,100,112,112,50,174,TEST\n0X5,55.1,50,100,112,112,50,174,TRAIN\n",
        "EchoNet-Dynamic/VolumeTracings.csv": "FileName,X1,Y1,X2,Y2,Frame\n0X1.avi,1,2,3,4,46\n",
        "EchoNet-Dynamic/Videos/0X1.avi": None,
        "EchoNet-Dynamic/Videos/0X2.avi": None,
        "EchoNet-Dynamic/Videos/0X3.avi": None,
        "EchoNet-Dynamic/Videos/0X4.avi": None,
    },
    "cholec80": {
        "videos/video01.mp4": None,
        "videos/video01-timestamp.txt": "Frame\n00:00:00.00\n",
        "phase_annotations/video01-phase.txt": _phases(
            (4, "Preparation"), (266, "CalotTriangleDissection")
        ),
        "tool_annotations/video01-tool.txt": "Frame\tGrasper\tBipolar\tHook\tScissors\tClipper\t"
        "Irrigator\tSpecimenBag\n0\t1\t0\t0\t0\t0\t0\t0\n",
        "videos/video02.mp4": None,
        "videos/video03.mp4": None,
        "phase_annotations/video03-phase.txt": _phases((179, "Preparation")),
        "phase_annotations/video04-phase.txt": _phases((180, "Preparation")),
        "videos/video48.mp4": None,
        "phase_annotations/video48-phase.txt": _phases((180, "GallbladderPackaging")),
        "videos/video80.mp4": None,
        "phase_annotations/video80-phase.txt": _phases(
            (179, "GallbladderRetraction"), (85, "CleaningCoagulation")
        ),
    },
    "busi": {
        "Dataset_BUSI_with_GT/benign/benign (1).png": None,
        "Dataset_BUSI_with_GT/benign/benign (1)_mask.png": None,
        "Dataset_BUSI_with_GT/malignant/malignant (2).png": None,
        "Dataset_BUSI_with_GT/malignant/malignant (2)_mask.png": None,
        "Dataset_BUSI_with_GT/malignant/malignant (2)_mask_1.png": None,
        "Dataset_BUSI_with_GT/normal/normal (3).png": None,
        "Dataset_BUSI_with_GT/normal/normal (3)_mask.png": None,
    },
    "covid-blues": {
        "clinical_variables.csv": "patient_id,cov_test,pat_age\n1,1,50\n2,0,60\n3,,70\n",
        "lus_videos/patient_1_L1.mp4": None,
        "lus_videos/patient_2_R3_2.mp4": None,
        "lus_videos/patient_3_L2.mp4": None,
    },
    "covid-us": {
        "labels/COVIDx-US1.2_4class.csv": "filename,patient,source,probe,class,class_level2\n"
        "1_butterfly_covid.mp4,,Butterfly,Convex,COVID,\n",
        "labels/COVIDx-US1.4_3class.csv": f"{_COVIDX}\n"
        "1_butterfly_covid,3,Butterfly,Convex,COVID,,lung\n",
        # The real file has spaces of Latin-1.
        "labels/COVIDx-US1.4_4class.csv": (
            f"{_COVIDX},patient,case_no\n"
            "1_butterfly_covid,3,Butterfly,Convex,COVID,,lung,p1,1\n"
            "40_grepmed_pneumonia,NA,GrepMed,Linear,Pneumonia,,lung,p40,1\n"
            "97_litfl_other,NA,Litfl,Convex,Other,Empyema\u00a0,lung,p92,1\n"
            "139_litfl_normal,0,Litfl,Linear,Normal,,lung,,\n"
            "170_core_covid,NA,Core,Convex,COVID,,cardiac,p130,1\n"
        ).encode("latin-1"),
        "utils/video_metadata.csv": "id,filename,filetype,folder,source\n"
        "1_butterfly_covid,Coalescing B lines.mp4,mp4,data\\tmp\\Butterfly,Butterfly\n",
        "data/video/original/1_butterfly_covid.mp4": None,
        "data/video/original/40_grepmed_pneumonia.gif": None,
        "data/video/original/139_litfl_normal.mov": None,
        "data/video/cropped/1_butterfly_covid_prc.avi": None,
        "data/video/cropped/40_grepmed_pneumonia_prc.avi": None,
    },
    "bcss": {
        "meta/gtruth_codes.tsv": "label\tGT_code\noutside_roi\t0\ntumor\t1\nstroma\t2\n",
        "images/TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500.png": _section(False),
        "masks/TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500.png": _section(True),
        "images/TCGA-OL-A5RW-DX1_xmin1_ymin2_MPP-0.2500.png": _section(False),
        "masks/TCGA-OL-A5RW-DX1_xmin1_ymin2_MPP-0.2500.png": _section(True),
        "images/TCGA-E2-A14V-DX1_xmin3_ymin4_MPP-0.2500.png": None,
    },
    "brain-tumor": {
        "Training/glioma_tumor/gg (1).jpg": None,
        "Training/no_tumor/image(1).jpg": None,
        "Testing/no_tumor/image(1).jpg": None,
    },
    "brain-tumor-2": {
        "yes/Y1.jpg": None,
        "no/1 no.jpeg": None,
        "brain_tumor_dataset/yes/Y1.jpg": None,
        "brain_tumor_dataset/no/1 no.jpeg": None,
    },
    "lc25000": {
        "lung_colon_image_set/lung_image_sets/lung_aca/lungaca1.jpeg": None,
        "lung_colon_image_set/colon_image_sets/colon_n/colonn1.jpeg": None,
    },
}


def build(root: str | os.PathLike, name: str) -> str:
    """Writes a data set in miniature; returns its folder."""
    for path, content in LAYOUTS[name].items():
        where = os.path.join(root, path)
        os.makedirs(os.path.dirname(where), exist_ok=True)
        if callable(content):
            content(where)
        else:
            if isinstance(content, str):
                content = content.encode()
            with open(where, "wb") as file:
                file.write(_medium(path) if content is None else content)
    return os.fspath(root)


def _medium(path: str) -> bytes:
    """A picture by the ending of its name; other media are not opened by converters."""
    kind = {"png": "PNG", "jpg": "JPEG", "jpeg": "JPEG"}.get(path.lower().rpartition(".")[2])
    if kind is None:
        return b"medium"
    grey = np.zeros((56, 84), np.uint8)
    grey[10:30, 20:60] = 255
    out = io.BytesIO()
    Image.fromarray(grey).convert("L" if "mask" in path.lower() else "RGB").save(out, kind)
    return out.getvalue()
